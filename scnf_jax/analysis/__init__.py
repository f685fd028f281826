"""What a trained model's scores and latents say: calibration, leaks, outliers."""
